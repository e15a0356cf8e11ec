"""Images, texts and words as users pass them, and their conversion to a model's inputs."""

from .encodings import BOOKKEEPING, EncodedText, EncodedTexts, collate, decoder, encode_texts, tokenized
from .image_files import decode_image
from .images import (
    OWN_MODEL,
    advice_on,
    batch_of,
    check_image_batch,
    column_as_list,
    described,
    holds_pictures,
    items_of,
    one_size,
    pil_images,
    refuse_labelled_batch,
    refuse_unreadable,
)
from .preprocessing import IMAGE_SUFFIXES, Backend, Preprocess, as_rgb, open_image
from .preprocessor_config import height_width
from .sources import places_of, source_spans
from .tensor_pictures import picture_of, pictures_of
from .text_batch import TextBatch, arrange, read_mask, token_number
from .token_ids import Tokenizer, as_numbers, named_token_ids, padding_of, special_ids
from .token_texts import BROKEN, decode_incrementally, split_by_spans
from .words import Spans, Word, score_words, verify_words, word_spans
