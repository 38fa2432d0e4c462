"""WebQA (Chang et al., CVPR 2022) as a multimodal retrieval set, from the files that people have.

Nothing is downloaded: the questions come from github.com/WebQnA/WebQA, `data.zip` from UniVL-DR's repository, M-BEIR
from the Hub. All questions search one corpus, which holds the candidates of every split, as in UniVL-DR.
"""
