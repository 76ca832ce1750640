"""From text to numbers.

Reading order: scorer, meaning, usage, function_scorer, rules, python_function, function_process, shared_model, neural, encoder,
frozen, agreement, bradley_terry, reward_model; asking, endpoint_scorer, endpoint_forms, judge, rubric, judge_model, judge_requests,
pair_labels, ranking, ranked_labels; cache, standardise, prompt_means, repetition;
ideal_points, prototypes, prototype_fit (objectives found in people's votes); auto_head, auto_fit (a preference for each prompt).
"""
