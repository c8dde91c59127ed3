"""A laboratory of whole Kubernetes clusters on one Linux machine.

What may live here: everything that builds, starts, observes, breaks and ends the lab (binaries, images,
network namespaces, cgroups, clusters, the edge router, faults), and under `graf.lab.drill` the drills that use it.
What may not: anything a production cluster needs. GRAF's own processes are started only from the manifests in
`gitops/bases`; this package never imports the controller, the orchestrator or the command line, and never
reaches into a component by another way than a person at the machine could.
"""
