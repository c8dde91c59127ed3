"""The Kubernetes objects of `graf.dev/v1alpha1`: typed models, their CRDs, and what a repository of them means.

Here live the pydantic models of the six kinds, the generator of `crds/*.yaml`, and pure functions over those
objects: what this release refuses, what a Git tree holds, what a group means for each of its sites. Nothing here
talks to Kubernetes, to Git or to a network, and nothing here decides about a role.
"""
