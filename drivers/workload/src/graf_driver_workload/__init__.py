"""The workload driver: Deployments, StatefulSets and anything else with a scale, as hot, warm or cold standby.

What may live here: scaling, applying and removing Kubernetes objects, and looking at their pods. What may not: anything
of ``graf`` (a driver imports only the SDK), and any decision.

Modules, from the bottom up: ``parameters``, ``names`` and ``evidence`` (pure), ``api`` (REST by the official client),
``objects`` (what is there: targets, pods, autoscalers), ``judge`` (pure: what that means), ``manifests`` (kustomize),
``record`` and ``apply`` (objects of our own), ``backend`` (roles made of the former; blocking), ``driver``, ``main``.
"""
