"""The contract that every loss keeps. What is public of it stands in `jaxloss.contract`; this is its inside.

`types` what a loss declares, `domains` which values its arrays may hold, `refuse` the checks while tracing, `values`
those of checked mode, `reduce` weights and means, `map` from one example to a batch, `declare` the decorator.
Each imports only those before it.
"""
