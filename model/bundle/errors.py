"""What is wrong with a bundle. Apart from what reads one, which takes longer to import and more memory."""


class BundleError(ValueError):
    """A bundle that must not be served; the message names the file and what is wrong with it."""
