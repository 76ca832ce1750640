"""Attention over packed batches: one layout, one interface, and a backend for each kind of device.

Reading order: layout says which tokens see which; blocks, products, sdpa, flex and varlen compute it; backends says which of
them a device can run; check holds a backend to another one; interface registers them with transformers.

The interface for users of this package is three names. ``choose(asked, capability)`` in backends returns the backends to try, best
first; ``BACKENDS[name].attend(layout, query, key, value, scale, window, sinks)`` computes attention; ``implementation(name)`` in
interface is the name under which ``model.set_attn_implementation`` knows the backend. ``prepare(model, attention=...)`` of
:mod:`paretune.models.packing` does all three, and ``backend_of(model)`` says which one a prepared model has.
"""
