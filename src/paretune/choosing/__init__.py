"""From a wish to a preference: bounds, floors, dial, posterior, elicit, population, dual, utility, auto."""
