"""From a wish to a preference: bounds, floors, elicit, posterior, population, dual."""
