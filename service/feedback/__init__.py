"""What users did, told to the service: judged by the model's feature table, written to the store, then to the journal.

In comes what makes an event or a user's profile of a body, and of that what the store holds; HTTP is service/api's.
"""
