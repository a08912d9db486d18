"""What the papers print, by our names. Their logs are not ours: orders may be compared, figures may not."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OfBST:
    title: str
    auc: float
    response_ms: int | None = None  # average response time of a request


@dataclass(frozen=True)
class OfATRank:
    title: str
    electronics: float  # AUC
    clothing: float


ORDER = ("wdl", "wdl_seq", "din", "bst")  # of Table 4, worst first

# Chen et al. 2019, Table 4: eight days of Taobao, 47,556,271,927 samples
BST_TABLE_4 = {
    "wdl": OfBST("WDL", 0.7734, 13),
    "wdl_seq": OfBST("WDL(+Seq)", 0.7846, 14),
    "din": OfBST("DIN", 0.7866, 16),
    "bst": OfBST("BST (b = 1)", 0.7894, 20),
    "bst:b=2": OfBST("BST (b = 2)", 0.7885),
    "bst:b=3": OfBST("BST (b = 3)", 0.7823),
}

# Zhou et al., AAAI 2018: Amazon reviews, Electronics and Clothing
ATRANK_TABLE = {
    "bpr": OfATRank("BPR", 0.7982, 0.7061),
    "bilstm": OfATRank("Bi-LSTM", 0.8757, 0.7869),
    "bilstm_attention": OfATRank("Bi-LSTM + Attention", 0.8769, 0.7835),
    "cnn_maxpool": OfATRank("CNN + Max Pooling", 0.8804, 0.7786),
    "atrank": OfATRank("ATRank", 0.8921, 0.7905),
}
