"""GRAF: geo-redundancy for network functions on Kubernetes.

Subpackages import one way: api < core | crd < ports < shell < controller | lab | cli. Nothing else lives here.
"""
