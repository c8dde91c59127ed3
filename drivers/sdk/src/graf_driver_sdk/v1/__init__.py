"""Generated code of the driver contract `graf.driver.v1`; made by tools/generate_protos.sh, never edited."""
