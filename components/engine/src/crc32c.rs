//! CRC-32C (Castagnoli), as RocksDB uses it in its WAL: eight table look-ups per eight bytes (Intel's "slicing-by-8").

const POLYNOMIAL_REFLECTED: u32 = 0x82F6_3B78;
/// Constant of RocksDB's mask (`util/crc32c.h`), which keeps a checksum of data that holds checksums from degenerating.
const MASK_DELTA: u32 = 0xA282_EAD8;

static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL_REFLECTED } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        let mut byte = 0;
        while byte < 256 {
            let previous = tables[slice - 1][byte];
            tables[slice][byte] = (previous >> 8) ^ tables[0][(previous & 0xFF) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

/// Checksum of `bytes`.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes")) ^ u64::from(crc);
        let at = |slice: usize, shift: u32| TABLES[slice][((word >> shift) & 0xFF) as usize];
        crc = at(7, 0) ^ at(6, 8) ^ at(5, 16) ^ at(4, 24) ^ at(3, 32) ^ at(2, 40) ^ at(1, 48) ^ at(0, 56);
    }
    for &byte in chunks.remainder() {
        crc = (crc >> 8) ^ TABLES[0][((crc ^ u32::from(byte)) & 0xFF) as usize];
    }
    !crc
}

/// Checksum of `bytes` in the form in which RocksDB stores it.
pub(crate) fn masked(bytes: &[u8]) -> u32 {
    checksum(bytes).rotate_right(15).wrapping_add(MASK_DELTA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_rfc_3720_b_4() {
        assert_eq!(checksum(b"123456789"), 0xE306_9283);
        assert_eq!(checksum(&[0; 32]), 0x8A91_36AA);
        assert_eq!(checksum(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(checksum(&(0..32).collect::<Vec<u8>>()), 0x46DD_794E);
    }
}
