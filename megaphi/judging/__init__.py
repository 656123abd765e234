"""Asking a model about text that others wrote: quotations it cannot mistake for orders, and answers read strictly."""
