"""The artefact: what training writes and the service opens. No torch; of the project it knows model.features alone.

`from model.bundle.reading import Bundle`; nothing is imported here, since the service's parent wants the errors alone.
"""
