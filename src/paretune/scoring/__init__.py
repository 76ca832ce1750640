"""From text to numbers.

Reading order: scorer, meaning, function_scorer, rules, python_function, function_process, neural, encoder, bradley_terry; cache,
standardise, prompt_means, repetition.
"""
