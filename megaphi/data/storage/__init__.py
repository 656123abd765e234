"""Tokenised datasets: .bin/.idx pairs on local disks or in object storage, written, read and merged."""
