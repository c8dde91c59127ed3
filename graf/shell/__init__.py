"""All input and output: gRPC streams, TLS, disk, clocks, the Kubernetes API.

May import graf.ports, graf.core, graf.crd, graf.api and the driver SDK's stubs. Holds no decision: whatever can
be decided from values belongs in graf.core.
"""
