"""Who may ask for what: API keys, their scopes and their rates, and where a service may do without keys.

Here belongs what decides about a caller; nothing here knows a model, a store or a handler.
"""
