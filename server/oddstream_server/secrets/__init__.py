"""Stores of secrets: environment and files, Vault, AWS Secrets Manager; and the memory before them."""
