"""What a user is shown: terminals that cannot make a verb fail, and a run as bars of text."""
