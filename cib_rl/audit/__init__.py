"""Auditing samples before any training: how much shorter could the right answers be, and what would a reward see?"""
