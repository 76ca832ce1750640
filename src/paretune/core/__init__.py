"""Plain values that everything else uses: errors, files, yaml_text, bounds, settings, settings_words, preference, sampling, progress,
launch.
"""
