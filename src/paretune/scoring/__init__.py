"""From text to numbers.

<<<<<<< HEAD
Reading order: scorer, function_scorer, rules, python_function, function_process, neural, encoder, bradley_terry; cache, standardise,
prompt_means, repetition.
=======
Reading order: scorer, function_scorer, rules, python_function, neural, encoder, bradley_terry; cache, standardise, prompt_means,
repetition, meaning.
>>>>>>> studio
"""
