"""Jobs over collections of any size: read ahead, tokenize, commit, resume. No modality in it."""
