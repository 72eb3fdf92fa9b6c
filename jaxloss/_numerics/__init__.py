"""The mathematics that several families share. Nothing here knows of masks or reductions, and only
`chunks` of batches, which it cuts.
"""
