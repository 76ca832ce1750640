"""Rows and where they come from: rows, row_store, broken, dataset, pairs, json_faults, arrow_files, readers, columns, prompts,
unread, formats, column_maps, known, shipped, places, load, typical, summary, score_files, person_votes, measured,
preference_labels."""
