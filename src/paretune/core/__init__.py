"""Plain values that everything else uses: errors, files, tensor_file, settings, preference, sampling, progress, launch."""
