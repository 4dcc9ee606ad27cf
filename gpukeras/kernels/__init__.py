"""Raw arrays in and out: each kernel's plain reference, and under it the forms that are faster somewhere."""
