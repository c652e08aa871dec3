"""Who may do what: roles, scopes, and what is kept of refusals."""
