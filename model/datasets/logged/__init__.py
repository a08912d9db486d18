"""What is made of the service's own log: impressions with their labels, and what was last known of users and items.

In comes SQL on the tables of model/servicelog; their files are found and checked there.
"""
