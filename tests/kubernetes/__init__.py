"""What deploy/kubernetes is checked by: objects as kustomize builds them, the two CRDs' shapes, the rules' object.

In comes what reads manifests; the tests themselves are in tests/contract/test_kubernetes*.py.
"""
