"""What runs in the pod that fills or verifies a claim of weights: Python's standard library, and the modules of ours that need no more.

They travel as one zip archive (infra/kubernetes/weights_code.py); the same code verifies on the laptop. Nothing here knows Kubernetes.
"""
