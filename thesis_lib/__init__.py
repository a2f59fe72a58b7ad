"""A thesis workbook for plankton image classification by supervised contrastive learning."""
