"""What is known of users, and where it is kept.

In comes what reads or writes the store; a caller sees `History` and `Stored`, never Redis.
"""
