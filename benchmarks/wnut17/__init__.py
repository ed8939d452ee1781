"""Named entities of WNUT-17 (Derczynski et al. 2017): mmfm beside transformers' Trainer."""
