"""Plain values that everything else uses: errors, settings, preference, sampling, meter, progress, work_log, launch.

What is written is written through `files` alone: `folder_form` tells our folders from others, `swap` puts what is new in the
place of what is old, and `owners` knows whose it is. `names` checks names that become files, `run_lock` keeps two runs apart, and
`tensor_file` finds out what a file of a model holds. `yaml_text` reads configs, and `numbers` reads numbers that are text;
`bounds` holds the ranges of settings, `validator` checks values against a type, and `settings_words` says what is wrong with one.
`said` holds the time that was said of a run beside that taken; `thought` finds what a model thinks before it answers, and `tools`
holds the functions that it may call; `scalarise` makes one number of one per objective.
"""
