"""AdminService: its methods, and its messages from and to the domain.

service.py    the methods
answers.py    mutations: once a request id
api_keys.py   keys and their scopes
audit.py      rows of the audit log
controls.py   halts, runs of the pipeline, settings of strategies
privacy.py    retention and what is held about a person
system_status.py  how the service does
"""
