"""Logits of classes that exclude each other, as the tasks that have them read them."""

from __future__ import annotations

from typing import Any


def cross_entropy(y: Any, logits: Any, label_smoothing: float) -> Any:
    """Softmax cross-entropy, float32 [...], of classes ``y`` int [...] and ``logits`` [..., K].

    Labels are smoothed as by Szegedy et al., arXiv:1512.00567, section 7.
    """
    import tensorflow as tf

    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
    if label_smoothing:
        uniform = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return loss


def of_both(answers: Any) -> Any:
    """Of two classes, [..., 2], where ``answers`` [..., 1] are the logit of the second; others as they are."""
    import tensorflow as tf

    return tf.concat([tf.zeros_like(answers), answers], -1) if answers.shape[-1] == 1 else answers


def of_second(answers: Any) -> Any:
    """The logit of the second class against the first, [..., 1], of ``answers`` [..., 1] or [..., 2]."""
    return answers if answers.shape[-1] == 1 else answers[..., 1:] - answers[..., :1]


def not_ignored(y: Any) -> Any:
    """1 where a class ``y`` int [...] counts, 0 where it is below 0, float32 [...]."""
    import tensorflow as tf

    return tf.cast(y >= 0, tf.float32)
