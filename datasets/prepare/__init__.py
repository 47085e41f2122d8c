"""From a download of TBX11K to a folder that training reads."""
