"""Operations of the network."""
