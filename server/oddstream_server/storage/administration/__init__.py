"""What operators change: each change is one transaction with its row of the audit log and the answer to its request id.

changes.py     the transaction, with the records below
audit_log.py   the chain: append, read, list, trim
requests.py    answers by request id
key_records.py   API keys and the people who own them
controls.py    halts, withdrawals and settings of strategies: what the pipeline's leader obeys
runs.py        runs of the pipeline's stages
retention.py   how long things are kept, and their end
holdings.py    what is held about people besides their keys, and erasures
anchors.py     the audit log's anchors, in a file
system.py      what the database knows of the service
"""
