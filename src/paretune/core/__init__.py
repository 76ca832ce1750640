"""Plain values that everything else uses: errors, files, settings, preference, sampling, progress, launch."""
