"""Plain values that everything else uses: errors, files, preference, progress, launch."""
