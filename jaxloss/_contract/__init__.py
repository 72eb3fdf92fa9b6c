"""The contract that every loss keeps. What is public of it stands in `jaxloss.contract`; this is its inside.

`domains` which values arrays may hold, `types` what a loss declares, `refuse` the checks while tracing, `reduce`
weights and means, `masks` what does not exist, `values` the checks of checked mode, `frame` which axes are what,
`outside` what happens outside the domain, `sets` the same for members of sets, `map` from one example to a batch,
`declare` the decorator. Each imports only those before it.
"""
