"""What the data is: feature names, tasks and their file layouts, curated TFDV schemas."""
