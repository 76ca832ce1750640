"""Text into numbers: rules, bradley_terry, encoder, cache, scorer, repetition."""
