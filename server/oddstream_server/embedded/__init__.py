"""PostgreSQL and Redis from wheels, run as children of this server in one data folder.

`services.EmbeddedServices` is the way in; everything it can refuse is in `errors`.
Standard library only: nothing here speaks SQL, and no path or value is read from the environment.
"""
