"""SDK for GRAF drivers: everything a driver needs to speak the contract `graf.driver.v1`, and its client.

What may live here: the contract and its generated stubs, values of the contract as plain types, and what every driver
must do alike: epoch guard, lanes, deadlines, redaction, error mapping, watching, serving. What may not: anything of
`graf`, anything that knows one kind of component, and anything that decides which site should be active.

Start reading at `graf_driver_sdk.driver`; `graf_driver_fake` is the smallest example.
"""
