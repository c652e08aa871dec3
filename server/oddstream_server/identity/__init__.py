"""Callers with access tokens of an OpenID provider."""
