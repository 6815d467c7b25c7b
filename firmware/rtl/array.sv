// The multiplier array: see array.py for what its ports mean.
//
// Written as loops, since a simulator evaluates them as loops: from a netlist of all multipliers
// it makes ten times as much code. Registers that nothing else reads are assigned blockingly, in
// the order from the last stage to the first, so that each stage sees what the one before it held.
module edged_array #(
    parameter TI = 8,
    parameter TO = 8,
    parameter TP = 1,
    parameter R = 8  // channels of a group: min(TI, TO)
) (
    input  wire                        clk,
    input  wire                        valid,
    input  wire                        is_signed,
    input  wire                        high,
    input  wire                        first,
    input  wire                        last,
    input  wire [             1:0]     group,
    input  wire [TP * TI * 8 - 1:0]    x,
    input  wire [TI * TO * 8 - 1:0]    w,
    output wire [TP * R * 32 - 1:0]    sums
);
  reg signed [8:0] x1[0:TP*TI-1];
  reg signed [7:0] w1[0:TI*TO-1];
  reg signed [16:0] products[0:TP*TO*TI-1];
  reg signed [31:0] trees[0:TP*TO-1];
  reg signed [31:0] accumulators[0:TP*TO-1];
  reg [TP*TO*32-1:0] results;
  reg valid1 = 0, valid2 = 0, valid3 = 0;
  reg high1, high2, first1, first2, first3, last1, last2, last3;
  integer p, i, o;
  reg signed [31:0] sum;

  always @(posedge clk) begin
    if (valid3) begin
      for (o = 0; o < TP * TO; o = o + 1) begin
        accumulators[o] = first3 ? trees[o] : accumulators[o] + trees[o];
        if (last3) results[o*32+:32] <= accumulators[o];
      end
    end
    if (valid2) begin
      for (o = 0; o < TP * TO; o = o + 1) begin
        sum = 0;
        for (i = 0; i < TI; i = i + 1) sum = sum + 32'(products[o*TI+i]);
        trees[o] = high2 ? sum <<< 8 : sum;
      end
    end
    if (valid1) begin
      for (p = 0; p < TP; p = p + 1)
        for (o = 0; o < TO; o = o + 1)
          for (i = 0; i < TI; i = i + 1)
            products[(p*TO+o)*TI+i] = 17'(x1[p*TI+i]) * 17'(w1[o*TI+i]);
    end
    if (valid) begin
      for (i = 0; i < TP * TI; i = i + 1) x1[i] = {is_signed & x[i*8+7], x[i*8+:8]};
      for (i = 0; i < TI; i = i + 1)
        for (o = 0; o < TO; o = o + 1) w1[o*TI+i] = w[(i*TO+o)*8+:8];
    end
    {valid3, high2, first3, last3} = {valid2, high1, first2, last2};
    {valid2, first2, last2} = {valid1, first1, last1};
    {valid1, high1, first1, last1} = {valid, high, first, last};
  end

  genvar lane, channel;
  generate
    for (lane = 0; lane < TP; lane = lane + 1)
      for (channel = 0; channel < R; channel = channel + 1)
        assign sums[(lane*R+channel)*32+:32] = results[(lane*TO+32'(group)*R+channel)*32+:32];
  endgenerate
endmodule
