"""ServingGate: asks a model server for the candidate's answers before anybody else can."""
