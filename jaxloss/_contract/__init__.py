"""The contract that every loss keeps. Its public part is `jaxloss.contract`; this is the implementation.

Each module imports only those above it:

- `domains`: which values an array may hold.
- `types`: the words in which a loss declares what it takes.
- `from_numpy`: arrays of NumPy that jax cannot take as they are.
- `refuse`: the checks while a loss is traced.
- `reduce`: weights and means.
- `masks`: units that do not exist.
- `values`: the checks of values in `jaxloss.checked`.
- `frame`: which axis is which.
- `outside`: what happens outside the domain.
- `sets`: the loss of a set of members.
- `map`: from the formula of one example to the loss of a batch.
- `declare`: the decorators `loss` and `compiled`.
"""
