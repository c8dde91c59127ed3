"""The checks by area. What may live here: one function a check. What may not: knowledge of one kind of component."""

from graf_driver_sanity.checks import (
    calls,
    crashes,
    epochs,
    gate,
    identity,
    position,
    resync,
    roles,
    secrets,
    status,
    validate,
    watch,
)

MODULES = (identity, validate, roles, epochs, status, watch, gate, position, resync, calls, crashes, secrets)
